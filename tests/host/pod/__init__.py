"""Running a program in a pod, under a Lease."""
