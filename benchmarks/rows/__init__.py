"""The accuracy table: its rows, what they cost, their records, and how the README shows them."""
