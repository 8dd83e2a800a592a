"""VideoLoom: slow and fast visual tokens, frame ids for times, [SEG] for masks; InternVL and SAM2; answers in words."""
