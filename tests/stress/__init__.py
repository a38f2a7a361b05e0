"""Attacks: what a run, a pack or a loader must survive, done to it on purpose and counted."""
