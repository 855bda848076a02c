"""The search behind ``quantkit tune``: stages, recipes, candidates, trials, mixed precision."""
