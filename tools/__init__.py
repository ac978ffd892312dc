"""What looks at the results of runs and evaluations."""
