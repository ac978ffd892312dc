"""`python -m lab`: see lab/experiments.py."""

from lab.experiments import main

main()
