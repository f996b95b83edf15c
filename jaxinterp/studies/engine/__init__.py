"""Studies of many training runs that several workers share, on Optuna."""
