"""Kill, freeze, starve and overrun a live server, then look whether its books still add up."""
