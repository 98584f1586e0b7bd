"""What both HTTP servers of the package stand on: bounds, senders, errors, connections."""
