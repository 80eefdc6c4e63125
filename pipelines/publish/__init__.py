"""What analysts open: the warehouse and its copies, and what a query may reach."""
