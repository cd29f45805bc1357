"""The two sides joined: item table, user encoder F, item encoder G, banks of states, losses."""
