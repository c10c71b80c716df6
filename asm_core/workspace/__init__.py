"""Folders before and after a run: `git.py` sees and restores, `hash.py` sees; `opening.py` chooses."""
