"""Querying a target, and counting every query.

`oracle` is the only interface from a model to an attack: a network of ours (`oracle.model_oracle`) or any function of
yours (`oracle.function_oracle`). `driver.query` runs an attack on it in chunks of points; `collect` does so for rows
of a pool and caches the answers. `white_box` is the baseline with gradients.
"""
