from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.models.codec import Codec, same_tokens
from harness.models.nano import train_tokenizer


def word_tokenizer(**special: str):
    """A tokenizer of six words that adds BOS and, where asked for, EOS: as Llama's and T5's do."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4, "c": 5}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def test_pad_is_never_eos_even_where_the_tokenizer_says_so():
    tokenizer = word_tokenizer(eos_token="</s>", pad_token="</s>")
    codec = Codec(tokenizer)
    assert codec.eos_id == 1
    assert codec.pad_id == 6 == len(codec) - 1, "no unknown token to borrow: a new one"


def test_an_unknown_token_serves_as_pad_and_adds_no_row():
    codec = Codec(word_tokenizer(eos_token="</s>", unk_token="<unk>"))
    assert (codec.pad_id, len(codec)) == (2, 6)


def test_an_unknown_token_that_is_eos_does_not_serve_as_pad():
    codec = Codec(word_tokenizer(eos_token="</s>", unk_token="</s>"))
    assert codec.pad_id not in (codec.eos_id, 0, 3, 4, 5)


def test_a_pad_of_its_own_stays():
    codec = Codec(word_tokenizer(eos_token="</s>", pad_token="<unk>"))
    assert (codec.pad_id, len(codec)) == (2, 6)


def test_without_eos_a_response_could_never_end():
    with pytest.raises(UserError, match=r"model\.name=here has a tokenizer without an EOS token"):
        Codec(word_tokenizer(), "here")


def test_a_prompt_keeps_bos_and_loses_the_trailing_eos_only():
    codec = Codec(word_tokenizer(eos_token="</s>", unk_token="<unk>"))
    assert codec.encode_prompts(["a b", "c"]) == [[0, 3, 4], [0, 5]]
    assert codec.count("a b") == 3


def test_a_response_has_no_bos_and_ends_in_one_eos():
    codec = Codec(word_tokenizer(eos_token="</s>", unk_token="<unk>"))
    assert codec.encode_responses(["a b", ""]) == [[3, 4, 1], [1]]
    assert codec.encode_responses(["a", "b"], ended=[True, False]) == [[3, 1], [4]]


def test_the_response_limit_counts_eos_and_cuts_it_off():
    codec = Codec(word_tokenizer(eos_token="</s>", unk_token="<unk>"))
    assert codec.encode_responses(["a b c"], max_tokens=4) == [[3, 4, 5, 1]]
    assert codec.encode_responses(["a b c"], max_tokens=3) == [[3, 4, 5]]
    assert codec.encode_responses(["a b c"], max_tokens=2) == [[3, 4]]


def test_nothing_in_nothing_out():
    codec = Codec(word_tokenizer(eos_token="</s>"))
    assert codec.encode_prompts([]) == codec.encode_responses([]) == codec.decode([]) == []


def test_a_prompt_and_its_response_are_the_tokens_of_the_joint_text(codec):
    """So a model that was pretrained on running text sees what it knows."""
    prompts, responses = ["the red fox", "why ?"], ["runs home .", "because it can ."]
    for prompt, response in zip(codec.encode_prompts(prompts), codec.encode_responses(responses), strict=True):
        joint = codec.decode([prompt + response])[0]
        assert codec.encode_prompts([joint])[0] == prompt + response[:-1]


@pytest.mark.parametrize("kind", ["prepend", "metaspace", "bytes"])
def test_one_space_stands_before_a_response_whoever_puts_it_there(kind):
    """By a normaliser, as generic copies of Llama's tokenizer do, by the pieces' own mark, or by nobody but us."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    if kind == "prepend":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif kind == "metaspace":
        made.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "</s>"], show_progress=False)
    made.train_from_iterator(["the", "cat", "sat", ":", "yes", "it", "is", "a", "b"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")
    for apart, text in ((False, "the cat yes it is"), (True, "yes it is")):
        codec = Codec(tokenizer, apart=apart)
        before = [] if apart else codec.encode_prompts(["the cat"])[0]
        joint = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert before + codec.encode_responses(["yes it is"], ended=[False])[0] == joint


def llama() -> Codec:
    """The codec of a Llama's tokenizer: BOS before every prompt, and SentencePiece's space before a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    words = ["tell: one two now:", "<unk> <s> </s> <pad>", "a b user go assistant"] * 9
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>", "<pad>"], show_progress=False)
    made.train_from_iterator(words, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return Codec(PreTrainedTokenizerFast(tokenizer_object=made, **marks))


class TestTextThatReadsLikeASpecialToken:
    def test_it_is_text_in_a_response(self, codec):
        text = f"one {codec.tokenizer.eos_token} two {codec.tokenizer.pad_token}"
        ids = codec.encode_responses([text])[0]
        assert ids.count(codec.eos_id) == 1 == ids[::-1].count(codec.eos_id)
        assert codec.pad_id not in ids
        assert codec.decode([ids]) == [text]

    def test_other_calls_read_such_tokens_as_before(self, codec):
        eos = codec.tokenizer.eos_token
        codec.encode_responses([eos])
        assert codec.encode_prompts([f"a{eos}b"])[0].count(codec.eos_id) == 1
        assert codec.tokenizer(eos, add_special_tokens=False)["input_ids"] == [codec.eos_id]

    @staticmethod
    def prompt_of(codec, template, *texts):
        """What a codec makes of data in a template, by way of their guarded forms."""
        ((*fields,),) = (each["turns"] for each in codec.guard([{"turns": list(texts)}]))
        text = codec.unguard(template.format(*fields))
        assert text == template.format(*texts)
        return codec.encode_prompts([text])[0]

    @pytest.mark.parametrize("name", ["gpt2", "llama"])
    def test_it_is_text_in_what_data_put_into_a_prompt(self, name, codec):
        codec = llama() if name == "llama" else Codec(copy.deepcopy(codec.tokenizer))
        eos, pad = codec.tokenizer.eos_token, codec.tokenizer.pad_token
        special = codec._special_ids()
        ids = self.prompt_of(codec, "tell: {} now: {}", f"one {eos} two", f"{pad}{eos}")
        bos = [codec.tokenizer.bos_token_id] if name == "llama" else []
        assert [id for id in ids if id in special] == bos
        text = f"tell: one {eos} two now: {pad}{eos}"
        assert ids == codec.tokenizer(text, split_special_tokens=True)["input_ids"]
        assert codec.tokenizer.decode(ids[len(bos) :]) == text
        # The same text in the task's own wording is the token, and prompts without any are as they were.
        assert codec.eos_id in codec.encode_prompts([f"{eos} a"])[0]
        assert self.prompt_of(codec, "tell: {}", "one < two") == codec.tokenizer("tell: one < two")["input_ids"]

    @pytest.mark.parametrize("name", ["gpt2", "llama"])
    def test_a_wording_and_a_chat_template_keep_theirs(self, name, codec):
        codec = llama() if name == "llama" else Codec(copy.deepcopy(codec.tokenizer))
        eos = codec.tokenizer.eos_token
        tokens = self.prompt_of(codec, f"{eos}{{}}{eos} go", f"a {eos} b")
        assert tokens.count(codec.eos_id) == 2
        assert codec.tokenizer.decode(tokens).count(eos) == 3
        codec.tokenizer.chat_template = CHATML.replace("<s>", eos).replace("</s>", eos)
        codec.converse()
        (fields,) = codec.guard([{"turns": [f"a {eos} b"]}])
        prompts = [
            codec.conversation([{"role": "user", "content": text}]) for text in (fields["turns"][0], "a b", "a < b")
        ]
        held, *plain = codec.encode_prompts([codec.unguard(prompt) for prompt in prompts])
        assert held.count(codec.eos_id) == plain[0].count(codec.eos_id) == 3
        assert codec.tokenizer.decode(held).count(eos) == 4
        for prompt, ids in zip(prompts[1:], plain, strict=True):
            assert ids == codec.tokenizer(prompt, add_special_tokens=False)["input_ids"]

    def test_it_changes_no_other_token_where_a_space_stands_before_the_first_text_alone(self):
        from tiny_families import TEXTS, pieces
        from tokenizers import pre_tokenizers

        tokenizer = pieces([*TEXTS, "a < pad / s > b"], 320)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        codec, eos = Codec(tokenizer), tokenizer.eos_token
        template = f"red {eos}{{}}{eos}the fox"
        plain, held = (self.prompt_of(codec, template, text) for text in ("the red fox", f"the red {eos} fox"))
        assert plain == tokenizer(template.format("the red fox"), add_special_tokens=False)["input_ids"]
        assert held.count(codec.eos_id) == plain.count(codec.eos_id) == 2
        first, last = plain.index(codec.eos_id), plain[::-1].index(codec.eos_id)
        assert held[: first + 1] == plain[: first + 1]
        assert held[-last - 1 :] == plain[-last - 1 :]
        assert tokenizer.decode(held).replace(" ", "") == template.format(f"the red {eos} fox").replace(" ", "")

    @pytest.mark.parametrize("apart", [False, True])
    def test_in_a_vocabulary_that_finds_it_in_any_text_too(self, apart):
        from tiny_families import TEXTS, pieces

        tokenizer = pieces([*TEXTS, "a < pad / s > b"], 320)
        assert 1 in tokenizer("a </s> b", add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = Codec(tokenizer, apart=apart).encode_responses(["a </s> b<pad>", "the red fox"], ended=[False, False])
        assert not {0, 1} & set(ids[0])
        assert tokenizer.decode(ids[0]) == "a < /s> b< pad>"
        assert ids[1] == tokenizer("the red fox", add_special_tokens=False)["input_ids"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda text: "<|" not in text)


@given(TEXT)
@settings(max_examples=150, deadline=None)
def test_any_text_survives_tokens_and_back(codec, text):
    tokens = codec.encode_responses([text], ended=[False])[0]
    assert codec.decode([tokens]) == [text.strip()]
    assert codec.pad_id not in tokens
    assert codec.eos_id not in tokens


def test_the_tokenizer_is_lossless_with_spaces_and_line_breaks():
    tokenizer = train_tokenizer(["a b"], 260)
    text = "  two  spaces , a\ttab ,\n\n line breaks . 'm n't 東京 \u00a0 end "
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_training_a_tokenizer_twice_gives_the_same_one():
    texts = [f"the {colour} fox number {n} runs ." for colour in ("red", "grey", "blue") for n in range(40)]
    first, second = (train_tokenizer(iter(texts), 330) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    assert len(first) <= 330


class TestSameTokens:
    """What two checkpoints of one lineage may differ in, and what not."""

    def changed(self, codec, change):
        tokenizer = copy.deepcopy(codec.tokenizer)
        change(tokenizer)
        return Codec(tokenizer)

    def test_tokens_that_were_added_make_no_difference(self, codec):
        marks = {"additional_special_tokens": ["<|user|>", "<|assistant|>"]}
        longer = self.changed(codec, lambda tokenizer: tokenizer.add_special_tokens(marks))
        assert len(longer) == len(codec) + 2
        assert same_tokens(codec, longer)
        assert same_tokens(longer, codec)

    def test_other_words_do(self, codec):
        other = Codec(train_tokenizer(["quite other words"], 300))
        assert not same_tokens(codec, other)

    def test_so_do_the_same_words_with_other_ids(self, codec):
        import json

        from tokenizers import Tokenizer

        def swap(tokenizer):
            state = json.loads(tokenizer.backend_tokenizer.to_str())
            vocabulary = state["model"]["vocab"]
            vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
            tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))

        assert not same_tokens(codec, self.changed(codec, swap))

    def test_so_does_a_mark_before_every_prompt(self, codec):
        from tokenizers import processors

        def with_bos(tokenizer):
            tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
                single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
            )

        assert not same_tokens(codec, self.changed(codec, with_bos))


CHATML = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
CHATML += "{% if add_generation_prompt %}<s>b:{% endif %}"


class TestChat:
    """Prompts as conversations, in the tokenizer's own template."""

    @pytest.fixture
    def chatting(self) -> Codec:
        tokenizer = word_tokenizer(eos_token="</s>", unk_token="<unk>", bos_token="<s>")
        tokenizer.chat_template = CHATML
        return Codec(tokenizer)

    def test_the_template_writes_all_marks_and_responses_follow_without_a_space(self, codec):
        tokenizer = copy.deepcopy(codec.tokenizer)
        tokenizer.chat_template = CHATML.replace("<s>", "<|endoftext|>")
        talking = Codec(tokenizer)
        talking.converse("be kind")
        messages = [{"role": "user", "content": "why ?"}]
        text = talking.conversation([{"role": "system", "content": "be kind"}, *messages])
        theirs = tokenizer.apply_chat_template(
            [{"role": "system", "content": "be kind"}, *messages], add_generation_prompt=True, return_dict=False
        )
        assert talking.encode_prompts([text]) == [theirs]
        assert talking.encode_responses(["it can ."]) == [[*tokenizer("it can .")["input_ids"], talking.eos_id]]
        assert codec.encode_responses(["it can ."]) == [[*tokenizer(" it can .")["input_ids"], talking.eos_id]]

    def test_bos_stands_once(self, chatting):
        chatting.converse()
        (ids,) = chatting.encode_prompts([chatting.conversation([{"role": "user", "content": "a"}])])
        assert ids[0] == 0
        assert ids[1] != 0

    def test_it_is_kept_with_the_tokenizer(self, chatting, tmp_path):
        from transformers import AutoTokenizer

        chatting.converse("c")
        chatting.tokenizer.save_pretrained(tmp_path)
        assert Codec(AutoTokenizer.from_pretrained(tmp_path)).chat == {"system": "c"}

    def test_it_makes_no_other_tokens(self, chatting):
        plain = Codec(word_tokenizer(eos_token="</s>", unk_token="<unk>", bos_token="<s>"))
        chatting.converse("c")
        assert same_tokens(chatting, plain)
        plain.follow(chatting)
        messages = [{"role": "user", "content": "a"}]
        assert plain.chat == {"system": "c"}
        assert plain.conversation(messages) == chatting.conversation(messages)

    def test_without_a_template_there_is_no_chat(self, codec):
        with pytest.raises(UserError, match=r"model\.chat=True needs a tokenizer with a chat template"):
            codec.converse()

    def test_a_template_that_refuses_or_drops_a_system_message_is_told_so(self, chatting):
        chatting.tokenizer.chat_template = CHATML.replace("messages", "messages[1:]")
        with pytest.raises(UserError, match=r"model\.system=hi does not appear"):
            chatting.converse("hi")
        chatting.tokenizer.chat_template = "{{ raise_exception('no system here') }}"
        with pytest.raises(UserError, match=r"refuses the roles system, user \(no system here\)"):
            chatting.converse("hi")


class TestApart:
    """Prompts and responses of an encoder–decoder model are texts by themselves."""

    def test_a_prompt_keeps_its_eos_and_no_space_stands_before_a_response(self, codec):
        tokenizer = word_tokenizer(eos_token="</s>", unk_token="<unk>")
        assert Codec(tokenizer, apart=True).encode_prompts(["a b"]) == [[0, 3, 4, 1]]
        apart = Codec(codec.tokenizer, apart=True)
        assert apart.encode_responses(["it can ."]) == [[*codec.tokenizer("it can .")["input_ids"], codec.eos_id]]
        assert not same_tokens(codec, apart)

    def test_what_stands_between_two_texts_of_a_pair(self):
        from tokenizers import processors

        tokenizer = word_tokenizer(eos_token="</s>", unk_token="<unk>")
        marks = [("<s>", 0), ("</s>", 1)]
        for pair, between in (("<s> $A </s> </s> $B </s>", [1]), ("<s> $A </s> $B </s>", []), ("$A $B", [])):
            tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
                single="<s> $A </s>", pair=pair, special_tokens=marks
            )
            assert Codec(tokenizer, apart=True).between() == between


def test_prompts_are_encoded_once_and_what_is_returned_is_the_callers(monkeypatch):
    codec, asked = Codec(word_tokenizer(eos_token="</s>", unk_token="<unk>")), []
    tokenizer = codec.tokenizer

    def encode(texts, **options):
        asked.append(list(texts))
        return tokenizer(texts, **options)

    monkeypatch.setattr(codec, "tokenizer", encode)
    first = codec.encode_prompts(["a b", "c", "a b"])
    assert first == [[0, 3, 4], [0, 5], [0, 3, 4]]
    first[0].append(7)
    assert codec.count("a b") == 3
    assert codec.encode_prompts(["c", "b", "a b"]) == [[0, 5], [0, 4], [0, 3, 4]]
    assert asked == [["a b", "c"], ["b"]]


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_what_is_forgotten_is_encoded_again(monkeypatch, most):
    from harness.models import codec as module

    monkeypatch.setattr(module, "REMEMBERED", most)
    codec = Codec(word_tokenizer(eos_token="</s>", unk_token="<unk>"))
    ids = {"a": [0, 3], "b": [0, 4], "c": [0, 5], "a b": [0, 3, 4]}
    for texts in (["a"], ["a", "b"], ["c", "a b", "a"], ["b", "b"], list(ids)):
        assert codec.encode_prompts(texts) == [ids[text] for text in texts]
        assert len(codec._prompts[False]) <= most


def test_a_conversation_is_encoded_anew(monkeypatch):
    """Its template writes BOS; as a plain text the same words got one."""
    codec = Codec(word_tokenizer(eos_token="</s>", unk_token="<unk>"))
    codec.tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    assert codec.encode_prompts(["a b"]) == [[0, 3, 4]]
    codec.converse()
    assert codec.encode_prompts(["a b"]) == [[3, 4]]
    assert same_tokens(codec, Codec(word_tokenizer(eos_token="</s>", unk_token="<unk>")))
    assert codec.encode_prompts(["a b"]) == [[3, 4]]
