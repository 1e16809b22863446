"""Reproduce: what the twelve papers claim, run here on real models and data.

claim.py      a claim, what was measured for it, and whether it holds
lab.py        what experiments share: size, seeds, models, runs that are kept
systems/      one file a paper
experiments/  what several of them run
reproduce.py  run them, one after the other; the figures as JSON
"""
