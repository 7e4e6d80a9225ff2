"""Whole trainings on made-up markets: is an edge that is there learned and proven, and is noise left alone?"""
