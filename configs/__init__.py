"""The recipes.

Each file is one training stage; its docstring is the exact command and what to expect.
"""
