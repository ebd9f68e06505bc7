"""Texts in more than 20 languages and 15 scripts, and strategies that build others from them."""

from __future__ import annotations

from hypothesis import strategies as st

LANGUAGES = {
    "eng": "The child's old rabbit reads 3 short books under the apple tree, doesn't it?",
    "deu": "Das Kind weiß, daß der Fuß größer ist: Äpfel kosten 12,50 Euro!",
    "fra": "L'élève a mangé là-bas un gâteau déjà froid; ça lui plaît.",
    "spa": "¿Dónde está mañana el niño pequeño? ¡Aquí, en la montaña!",
    "pol": "Żółta gęś chciała ćwiczyć śpiew, więc przyszła później.",
    "tur": "İstanbul'da ılık bir gün; çocuğun öğle uykusu kısa sürdü.",
    "vie": "Đứa trẻ đọc quyển sách dưới gốc cây, rồi ngủ một giấc thật dài.",
    "yor": "Ọmọ náà ń ka ìwé lábẹ́ igi ńlá kan.",
    "rus": "Ребёнок читает книгу под яблоней, а кошка ждёт её.",
    "ukr": "Їжак з'їв яблуко й пішов до лісу, ґанок порожній.",
    "ell": "Το παιδί διαβάζει ένα βιβλίο κάτω από τη μηλιά· τι ωραία!",
    "hye": "Երեխան գիրք է կարդում ծառի տակ։",
    "kat": "ბავშვი ხის ქვეშ წიგნს კითხულობს.",
    "heb": "הַיֶּלֶד קורא ספר מתחת לעץ, והחתול ישן.",
    "arb": "يقرأُ الطِّفلُ كتابًا تحت الشجرة، والقطة نائمة.",
    "pes": "کودک زیر درخت کتاب می‌خواند؛ گربه خوابیده است.",
    "amh": "ልጁ ከዛፉ ሥር መጽሐፍ ያነባል።",
    "hin": "बच्चा पेड़ के नीचे क़िताब पढ़ता है और बिल्ली सोती है।",
    "ben": "শিশুটি গাছের নিচে বই পড়ছে, বিড়াল ঘুমায়।",
    "tam": "குழந்தை மரத்தின் கீழ் புத்தகம் படிக்கிறது.",
    "tha": "เด็กอ่านหนังสืออยู่ใต้ต้นไม้ แมวกำลังนอนหลับ",
    "mya": "ကလေးသည် သစ်ပင်အောက်တွင် စာအုပ်ဖတ်နေသည်။",
    "zho": "孩子在树下读书，猫睡着了。",
    "jpn": "子どもがリンゴの木の下で本を読んで、ガラスのコップを割った。",
    "kor": "아이가 나무 아래에서 책을 읽고, 고양이는 잔다.",
    "emoji": "So 👩‍👩‍👧 went 🏳️‍🌈 home 👍🏽 today…",
}
ALL = "\n".join(LANGUAGES.values())

_WORDS = sorted({word for text in LANGUAGES.values() for word in text.split()})
_GAPS = [" ", " ", " ", "  ", "\n", "\r\n", "\t", "\u3000", "\u00a0", " - ", ""]
# Words of real languages in any order and any white space between them.
multilingual = st.lists(
    st.tuples(st.sampled_from(_WORDS), st.sampled_from(_GAPS)).map("".join), max_size=14
).map("".join)
# And what no language has: stray marks and joiners, odd cases, surrogates left out.
strange = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]),
              st.sampled_from("aB ß\u0130\u0301\u200d\u0345\u1fb3 \n\r\u00b4\u2126'0.")),
    max_size=24,
)
texts = st.one_of(multilingual, strange)
rates = st.sampled_from([0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0])
