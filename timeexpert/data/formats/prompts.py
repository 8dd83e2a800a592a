"""Questions for data sets that come without them: several per task, chosen by a hash of the sample's key."""

from __future__ import annotations

from hashlib import sha256

PROMPTS: dict[str, tuple[str, ...]] = {
    "general": (
        "Describe this video.",
        "What happens in this video?",
        "Give a short description of the video.",
        "What does the video show?",
    ),
    "dense_captioning": (
        "List the events of this video. Give the start and end time of each, and a sentence about it.",
        "Find every event in the video and describe each one, with its start and end time.",
        "What happens in this video, and when? Go through it event by event.",
        "Divide the video into events and write a caption for each, with start and end times.",
        "Watch the video and report each activity in it: when it begins, when it ends, and what is done.",
        "Write a timed summary of this video: one sentence per event, each with its time span.",
    ),
    "moment_retrieval": (
        "When does this happen in the video: '{query}'?",
        "Find the part of the video that matches '{query}' and give its start and end time.",
        "Locate '{query}' in the video. Answer with the start and end time of each matching moment.",
        "At what time in the video can one see '{query}'?",
        "Which time span of the video shows '{query}'?",
        "Give the start and end times of the moments described by '{query}'.",
    ),
    "highlight_detection": (
        "Find the highlights of the video for '{query}' and score how well each one fits.",
        "Which moments of the video best show '{query}'? Give the time and a saliency score for each.",
        "Point out the highlights that match '{query}', each with its time and its saliency score.",
        "Rate the moments of this video by how well they show '{query}': time and score for each.",
    ),
    "action_segmentation": (
        "Divide the video into actions. Name each one and give its start and end time.",
        "Label the whole video with the actions in it, from start to end, with the time span of each.",
        "Which actions follow one another in this video? Give each one's start time, end time and name.",
        "Segment this video by action and list the steps with their time spans.",
    ),
    "referring_segmentation": (
        "Segment '{query}' in the video.",
        "Which pixels of the video belong to '{query}'? Give a mask.",
        "Follow '{query}' through the video and mark it with a mask.",
        "Show where '{query}' is in the video with a segmentation mask.",
    ),
}


def prompt_for(task: str, key: str, query: str | None = None) -> str:
    """The question of ``task`` for the sample ``key``: the same key gives the same question on every machine.

    ``query`` fills the templates of tasks that ask about something; it is required there and refused elsewhere.
    Raises ``ValueError`` on an unknown task or a missing or needless query.
    """
    if task not in PROMPTS:
        raise ValueError(f"task ({task!r}) must be one of {', '.join(PROMPTS)}.")
    templates = PROMPTS[task]
    takes_query = "{query}" in templates[0]
    if takes_query and not (query and query.strip()):
        raise ValueError(f"task {task} asks about something: query ({query!r}) must be text.")
    if not takes_query and query is not None:
        raise ValueError(f"task {task} asks about the whole video: query ({query!r}) must be None.")
    digest = sha256(f"{task}\0{key}".encode("utf-8", "surrogatepass")).digest()
    template = templates[int.from_bytes(digest[:8], "big") % len(templates)]
    return template.replace("{query}", query.strip()) if query else template
