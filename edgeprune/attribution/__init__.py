"""Attribution of the decision to units."""
