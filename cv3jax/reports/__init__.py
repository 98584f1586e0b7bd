"""Pictures and plots for reports."""
