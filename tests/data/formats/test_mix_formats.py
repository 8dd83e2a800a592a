"""Formats of the data sets that the paper's stages name, each on rows written in its published form."""

import json

import pytest

from timeexpert.data.formats import detect
from timeexpert.data.formats.reading import FormatError


def answer(sample):
    return [(event.start_s, event.end_s, event.scores, event.text) for event in sample.events]


def plain(text):
    return [(None, None, (), text)]


def only(converted):
    samples, rejected = converted
    assert not rejected, rejected
    assert len(samples) == 1
    return samples[0]


def csv_file(tmp_path, *lines):
    path = tmp_path / "train.csv"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_videochatgpt_is_a_question_about_a_video_id(convert_rows):
    sample = only(convert_rows("videochatgpt", [{"q": "What? ", "a": " A dog.", "video_id": "v_k_ZXmr8pmrs"}]))
    assert (sample.video, sample.task, sample.prompt) == ("v_k_ZXmr8pmrs.mp4", "general", "What?")
    assert answer(sample) == plain("A dog.")


def test_textvr_has_a_description_per_caption_and_a_duration_of_0_is_unknown(convert_rows):
    row = {
        "path": "Cooking/b_uKIQ4dn3A_1.mp4",
        "captions_info": [
            {"caption": " She cooks.", "caption_info": {"duration": 42.0, "desc_id": 175}},
            {"caption": "", "caption_info": {"duration": 42.0, "desc_id": 176}},
            {"caption": "A pan.", "caption_info": {"duration": 0, "desc_id": 177}},
        ],
        "videos_info": {"source": "vitvr_batch2", "split": "test"},
    }
    samples, rejected = convert_rows("textvr", [row])
    assert [(s.video, s.duration_s, answer(s)) for s in samples] == [
        ("Cooking/b_uKIQ4dn3A_1.mp4", 42.0, plain("She cooks.")),
        ("Cooking/b_uKIQ4dn3A_1.mp4", None, plain("A pan.")),
    ]
    assert [(r.where, r.kind) for r in rejected] == [("file.json:1.captions_info[1]", "no_label")]


def test_sharegpt4video_takes_the_caption_of_the_whole_video(convert_rows):
    row = {
        "video_id": "abc", "video_path": "panda/abc.mp4", "zip_folder": "panda_videos_1.zip",
        "captions": [{"idx": "0-2", "content": "He turns."}, {"idx": "-1", "content": "A man turns."}],
    }  # fmt: skip
    sample = only(convert_rows("sharegpt4video", [row]))
    assert (sample.video, answer(sample)) == ("panda/abc.mp4", plain("A man turns."))
    row["captions"].pop()
    _, rejected = convert_rows("sharegpt4video", [row])
    assert rejected[0].reason == "0 of 1 captions have idx -1, the whole video's; 1 is due."


def clip(video, start, end, caption):
    scores = {"Aesthetic_Score": 4.29, "UMT_Score": 0.45}
    return {"YoutubeID": video, "Start_timestamp": start, "End_timestamp": end, "Caption": caption, **scores}


def test_internvid_joins_neighbouring_clips_of_a_video(convert_rows):
    rows = [
        clip("a", "00:07:33.689", "00:07:51.085", "a screen"),
        clip("a", "00:00:01.000", "00:00:02.500", "a dog"),
        clip("b", "01:00:00.000", "01:00:01.000", "a cat"),
    ]
    samples, rejected = convert_rows("internvid", rows)
    assert not rejected
    assert [(s.task, s.video, answer(s)) for s in samples if s.task == "dense_captioning"] == [
        ("dense_captioning", "a.mp4", [(1.0, 2.5, (), "a dog"), (453.689, 471.085, (), "a screen")]),
        ("dense_captioning", "b.mp4", [(3600.0, 3601.0, (), "a cat")]),
    ]
    assert [s.events.events[0].text for s in samples if s.task == "moment_retrieval"] == ["a screen", "a dog", "a cat"]


def test_internvid_says_that_a_video_came_again_and_that_a_time_is_none(convert_rows):
    rows = [clip(video, "00:00:01", "00:00:02", "x") for video in "aba"] + [clip("c", "1.5", "00:00:02", "x")]
    samples, rejected = convert_rows("internvid", rows)
    assert len(samples) == 4
    assert [(r.where, r.kind) for r in rejected] == [
        ("file.json:3", "duplicate_id"), ("file.json:3", "duplicate_id"), ("file.json:4", "bad_number"),
    ]  # fmt: skip
    assert "must be a time like '00:03:10.567'" in rejected[-1].reason


def test_nextqa_answers_with_the_text_of_the_right_choice(tmp_path, convert_file):
    path = csv_file(
        tmp_path,
        "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4",
        '4010069381,369,640,480,"how, exactly",2,6,CH,roll,tap,strum the string,hit,pat',
        "4010069381,369,640,480,why,5,7,CW,a,b,c,d,e",
        "short",
    )
    assert detect(path) == "choice_csv"
    samples, rejected = convert_file("choice_csv", path)
    sample = only((samples, []))
    assert (sample.video, sample.prompt, answer(sample)) == (
        "4010069381.mp4", "how, exactly", plain("strum the string")
    )  # fmt: skip
    assert sample.meta == {"qid": "6", "type": "CH", "choices": ["roll", "tap", "strum the string", "hit", "pat"]}
    assert [(r.where, r.kind) for r in rejected] == [("train.csv:3", "malformed"), ("train.csv:4", "malformed")]
    assert rejected[0].reason == "answer ('5') must be the number of a choice, 0 to 4."
    assert rejected[1].reason == "1 fields; the first line names 13"


def test_nextqa_open_ended_answers_are_texts(tmp_path, convert_file):
    header = "video,frame_count,width,height,question,answer,qid,type,additional_ref_answer"
    path = csv_file(tmp_path, header, "1,2,3,4,why,to rest,0,CW,tired")
    assert answer(only(convert_file("choice_csv", path))) == plain("to rest")


def test_egoqa_has_an_unnamed_column_and_quoted_lines(tmp_path, convert_file):
    path = csv_file(
        tmp_path, ",video_id,qid,answer,question,a0,a1", '0,828e-13,0,1,"what\ndid c do?",rest,"fix, then rest"'
    )
    sample = only(convert_file("choice_csv", path))
    assert (sample.video, sample.prompt, answer(sample)) == ("828e-13.mp4", "what\ndid c do?", plain("fix, then rest"))


def test_a_csv_that_is_not_utf8_is_an_error_and_a_stray_quote_costs_its_row(tmp_path, convert_file):
    path = csv_file(tmp_path, "video,question,answer,qid", 'v,"a" b,c,1', "w,why,so,2")
    samples, rejected = convert_file("choice_csv", path)
    assert [s.video for s in samples] == ["w.mp4"] and [r.kind for r in rejected] == ["malformed"]
    path.write_bytes(b"video,question,answer,qid\nv,\xff,c,1\n")
    with pytest.raises(FormatError, match="not UTF-8"):
        convert_file("choice_csv", path)


def test_star_keeps_the_situation_and_the_choices_beside_the_answer(convert_rows):
    row = {
        "question_id": "Interaction_T1_4", "video_id": "TJZ0P", "start": 7.7, "end": 15.7,
        "question": "Which object was eaten by the person?", "answer": "The sandwich.",
        "choices": [{"choice_id": 0, "choice": "The medicine."}, {"choice_id": 1, "choice": "The sandwich."}],
        "question_program": [{"function": "Situations", "value_input": []}],
    }  # fmt: skip
    sample = only(convert_rows("star", [row]))
    assert (sample.video, sample.task, answer(sample)) == ("TJZ0P.mp4", "general", plain("The sandwich."))
    assert sample.meta["situation_s"] == [7.7, 15.7]
    assert sample.meta["choices"] == ["The medicine.", "The sandwich."]
    del row["answer"]
    assert [r.kind for r in convert_rows("star", [row])[1]] == ["no_label"]


def test_moment10m_event_sequences_are_dense_captions_and_queries(convert_rows):
    content = {"abc": {"captions": ["a dog", "a cat"], "timestamps": [[0.5, 2], [3, 4.25]]}}
    samples, rejected = convert_rows("moment10m", content)
    assert not rejected
    assert [(s.task, s.video) for s in samples] == [
        ("dense_captioning", "abc.mp4"), ("moment_retrieval", "abc.mp4"), ("moment_retrieval", "abc.mp4"),
    ]  # fmt: skip
    assert answer(samples[0]) == [(0.5, 2.0, (), "a dog"), (3.0, 4.25, (), "a cat")]


def question(variables, user, assistant, **more):
    return {"id": "x", "variables": variables, "conversations": {"User": user, "Assistant": assistant}, **more}


def test_moment10m_answers_that_are_moments_become_moment_retrieval_and_others_stay_text(convert_rows):
    content = {
        "abc": {
            "segment_locate_data": [
                question(
                    {"moment": [[1, 2], [3.5, 4]], "content": "a dog runs"}, "When is '{content}'?", "At {moment}."
                ),
            ],
            "qa_data": [
                question({"moment": [1, 2.5]}, "What is in {moment}?", "A dog.", match_score=0.2),
                question({"click_position": [1, [0.5, 0.5]]}, "What is at {click_position}?", "A dog."),
                question({}, "What is in {moment}?", "A dog."),
            ],
        }
    }
    samples, rejected = convert_rows("moment10m", content)
    assert [(s.task, s.prompt, answer(s)) for s in samples] == [
        ("moment_retrieval", "When is 'a dog runs'?", [(1.0, 2.0, (), "a dog runs"), (3.5, 4.0, (), "a dog runs")]),
        ("general", "What is in 1 - 2.5 seconds?", plain("A dog.")),
    ]
    assert samples[1].meta == {"type": "qa_data", "match_score": 0.2}
    assert [(r.where, r.kind) for r in rejected] == [
        ("file.json['abc']['qa_data'][1]", "unsupported"), ("file.json['abc']['qa_data'][2]", "malformed"),
    ]  # fmt: skip


def test_llava_pictures_become_one_frame_videos_beside_them(convert_rows):
    talk = [{"from": "human", "value": "Render a summary.\n<image>"}, {"from": "gpt", "value": "a pot"}]
    rows = [{"id": "1", "image": "00453/1.jpg", "conversations": talk}, {"id": "2", "conversations": talk}]
    samples, rejected = convert_rows("llava_image", rows)
    assert [(s.video, s.prompt, answer(s)) for s in samples] == [
        ("00453/1.jpg.mp4", "Render a summary.", plain("a pot"))
    ]
    assert [r.kind for r in rejected] == ["unsupported"]


def tokens(number):
    names = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
    return "".join("<TIME_DOT>" if digit == "." else f"<TIME_{names[int(digit)]}>" for digit in number)


def timeit_row(q, a):
    return [{"video": "data/yttemporal/videos/abc.mp4", "QA": [{"q": q, "a": a}], "source": "VTG-IT"}]


def test_vtg_it_spells_times_in_tokens(convert_rows):
    times = [tokens(number) for number in ("0022.0", "0024.5", "0030.0", "0031.0")]
    said = "{} - {} seconds, cut it. {} - {} seconds, fry.".format(*times)
    sample = only(convert_rows("timeit", timeit_row("Caption it.", said), video_template="{id}.mp4"))
    assert (sample.task, sample.video) == ("dense_captioning", "abc.mp4")
    assert answer(sample) == [(22.0, 24.5, (), "cut it"), (30.0, 31.0, (), "fry")]


def test_vtg_it_moment_retrieval_answers_repeat_the_query(convert_rows):
    asked = "Using the text query 'Tying shoelaces', find the relevant part of the video."
    sample = only(convert_rows("timeit", timeit_row(asked, "45 - 60 seconds, tying shoelaces.")))
    assert (sample.task, answer(sample)) == ("moment_retrieval", [(45.0, 60.0, (), "tying shoelaces")])
    sample = only(convert_rows("timeit", timeit_row("Caption the events.", "45 - 60 seconds, tying shoelaces.")))
    assert sample.task == "dense_captioning"


def test_vtg_it_highlights_have_a_significance_score(convert_rows):
    said = "10 seconds, significance score: 4, key scenes. 25 seconds, significance score: 3.5, key scenes."
    sample = only(convert_rows("timeit", timeit_row("Find 'key scenes'.", said)))
    assert sample.task == "highlight_detection"
    assert answer(sample) == [(10.0, 10.0, (4.0,), "key scenes"), (25.0, 25.0, (3.5,), "key scenes")]
    _, rejected = convert_rows("timeit", timeit_row("Find it.", "Well. " + said))
    assert [r.kind for r in rejected] == ["unparsed"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("videochatgpt", [{"q": "?", "a": "b", "video_id": "v"}]),
        ("textvr", [{"path": "a.mp4", "captions_info": []}]),
        ("sharegpt4video", [{"video_id": "v", "video_path": "a.mp4", "captions": [], "zip_folder": "z"}]),
        ("internvid", [clip("a", "00:00:01", "00:00:02", "x")]),
        ("star", [{"question_id": "q", "video_id": "v", "question": "?", "choices": []}]),
        ("moment10m", {"v": {"captions": ["a"], "timestamps": [[1, 2]]}}),
        ("moment10m", {"v": {"qa_data": [question({}, "?", "a")]}}),
        ("llava_image", [{"id": "1", "image": "a.jpg", "conversations": []}]),
        ("llava", [{"id": "1", "video": "a.mp4", "conversations": []}]),
    ],
)
def test_the_format_is_told_from_the_first_record(tmp_path, name, content):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    assert detect(path) == name
