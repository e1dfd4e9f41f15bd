"""What a network is measured against: one session a library, as plain as that library lets it be."""
