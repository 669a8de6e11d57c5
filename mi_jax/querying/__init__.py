"""Asking a target, and counting every query.

`oracle` is the only interface from a model to an attack: a network of ours (`oracle.of_model`) or any function of
yours (`oracle.of_function`). `driver.query` puts an attack to it in packed chunks, `collect` does so about rows of a
pool, in parts that a stopped run resumes from. `white_box` is the baseline that sees gradients.
"""

__all__ = ["collect", "driver", "oracle", "white_box"]
