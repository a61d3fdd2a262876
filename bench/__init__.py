"""What foglearn costs, measured side by side with the least that could do the same. `python -m bench`, from the repository's root."""
