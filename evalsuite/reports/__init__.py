"""What is made of scored results: adapter x task matrix, gate, pages for people and machines."""
