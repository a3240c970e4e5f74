"""Seeds, devices and collectives: what every other part may use and what depends on none of them."""
