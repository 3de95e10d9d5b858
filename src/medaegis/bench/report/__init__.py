"""Records as pages, figures and tables."""
