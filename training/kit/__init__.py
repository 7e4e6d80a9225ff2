"""The functions of the façade `training` that no other package has: environments, bars, runs, results, versions."""
