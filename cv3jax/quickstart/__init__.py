"""The whole system on one CPU, and its report."""
