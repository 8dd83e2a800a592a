"""Videos to samples with times and masks (VideoLoom's LoomData pipeline). See docs/loomdata.md."""
