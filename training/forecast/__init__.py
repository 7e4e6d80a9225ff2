"""The forecaster of `forecast_ensemble`: labels, folds, network, training, calibration and out-of-sample forecasts."""
