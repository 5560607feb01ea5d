"""What the datapath is tested with: a model, packets, programs under test runs, and two nodes built by hand."""
