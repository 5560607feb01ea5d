"""Every row type and table, one module a subject. Features write and read them; `datapath` reconciles them into the kernel."""
