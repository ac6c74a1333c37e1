{ x = [ "file" ]; }
