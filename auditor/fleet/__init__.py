"""Labs: many devices audited over ssh from one host, by an inventory, with a journal that a run is resumed from."""
