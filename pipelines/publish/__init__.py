"""What analysts open: the warehouse, its copies, and queries of it."""
