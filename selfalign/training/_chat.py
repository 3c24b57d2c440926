"""Stands in for selfalign.chat."""

from selfalign.records import Message


def encode_chat(tokenizer, messages: "tuple[Message, ...]", *, add_generation_prompt: bool = True) -> list[int]:
    turns = [{"role": m.role, "content": m.content} for m in messages]
    return list(
        tokenizer.apply_chat_template(
            turns, add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
        )
    )
