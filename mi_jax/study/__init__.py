"""A study: data, split, trained models and their oracles. Commands and notebooks start from one.

`config` has the settings of a run, `study` what is prepared from them, `runs` what of a run is finished already.
"""

__all__ = ["config", "runs", "study"]
