"""What can go wrong, made to happen: crashes, failing disks, lost power, hostile producers, damaged files."""
