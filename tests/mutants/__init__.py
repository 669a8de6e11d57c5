"""Do the tests notice a fault? Forty are planted, one at a time (`make mutants`)."""
