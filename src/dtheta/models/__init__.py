"""Pretrained networks: loading them (load), those known by name (zoo), GGUF (gguf), and a text classifier on top."""
