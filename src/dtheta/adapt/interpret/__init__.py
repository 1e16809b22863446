"""What an adaptation did to a transformer, in terms of its attention heads.

layers.py     where the heads of a model are: which rows and columns of which parameters
changed.py    how much the value-output product of each head moved
captions.py   what a head of a CLIP image tower writes, in words
"""
