"""What devices came to over many runs: kept in a database, and what stands out in it."""
