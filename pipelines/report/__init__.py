"""The report: one page, figures and tables of certificates."""
