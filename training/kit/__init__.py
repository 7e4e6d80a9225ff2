"""What the façade `training` names and no other room has: environments, bars, runs, results, versions, each by name."""
