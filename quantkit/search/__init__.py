"""The search of ``quantkit tune``: stages, recipes, candidates, trials, mixed precision."""
