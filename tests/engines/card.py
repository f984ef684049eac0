"""The conversation of three turns in which the A.X model cards show tool calls, as rules of the scripted engine.

The questions, the tools and the numbers are the cards'; the wording of the answers is ours.
"""

from __future__ import annotations

from typing import Any

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "calculate_discount",
            "description": "원가격과 할인율(퍼센트 단위)을 입력받아 할인된 가격을 계산하는 함수",
            "parameters": {
                "type": "object",
                "properties": {
                    "original_price": {"type": "number", "description": "상품의 원래 가격"},
                    "discount_percentage": {"type": "number", "description": "적용할 할인율"},
                },
                "required": ["original_price", "discount_percentage"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "get_exchange_rate",
            "description": "두 통화 간의 환율을 가져오는 함수",
            "parameters": {
                "type": "object",
                "properties": {
                    "base_currency": {"type": "string"},
                    "target_currency": {"type": "string"},
                },
                "required": ["base_currency", "target_currency"],
            },
        },
    },
]
QUESTION = "우리 회사는 직원에게 할인을 해 줍니다. 57600원짜리 상품을 직원 할인으로 사면 얼마인가요?"
ASKS_BACK = ["할인", "된 가격을 계산하려면 ", "직원 할인율이 ", "몇 퍼센트인지 ", "알려 주세요", "."]
RATE = "15% 할인받을 수 있어요."
CALL = [
    "<tool", "_call>\n", '{"name": "calc', 'ulate_discount", "argum', 'ents": {"original_price": 57', "600, ",
    '"discount_percentage": 15}', "}\n</tool_", "call>",
]  # fmt: skip
RESULT = '{"discounted_price": 48960.0}'
ANSWER = ["직원 할인을 ", "적용하면 57,600원짜리 ", "상품을 48,960원에 ", "살 수 있습니다."]

CARD: list[Any] = [
    [QUESTION, {"say": ASKS_BACK}],
    [RATE, {"say": CALL}],
    [RESULT, {"say": ANSWER}],
]
