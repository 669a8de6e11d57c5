"""Do the tests notice a fault? More than fifty are planted, one at a time (`make mutants`)."""
