"""Adapt: methods that train a delta. One file a method; attach.py wires any of them to any module."""
