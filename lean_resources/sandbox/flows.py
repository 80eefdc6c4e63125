"""Kinds of movements on accounts, and merchants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """A kind of movement, in both vocabularies.

    Args:
        kind: `transaction_type`.
        sub_kind: `sub_transaction_type`.
        code: The newer generation's bank transaction code and sub code.
        domain: ISO 20022 domain, family and sub family, each with its code.
        category: Its category in the enrichment.
        english: Start of the bank's text.
        arabic: Start of the bank's text in Arabic.
        scheme: Start of the reference.
        proprietary: The bank's own code.
        flags: As in Lean.
        mode: `payment_modes`.
        card: Paid with a card.
    """

    kind: str
    sub_kind: str
    code: dict[str, str]
    domain: dict[str, str]
    category: str
    english: str
    arabic: str
    scheme: str
    proprietary: str
    flags: tuple[str, ...] = ()
    mode: str | None = None
    card: bool = False


class Merchant(NamedTuple):
    """A shop, with the range of its usual amounts in halalas."""

    name: str
    arabic: str
    code: str
    category: str
    place: str
    low: int
    high: int
    merchant_id: int
    currency: str = "SAR"


class Biller(NamedTuple):
    """A firm that is paid through SADAD."""

    name: str
    arabic: str
    biller_id: int
    payment_type: str
    low: int
    high: int


def _code(code: str, sub_code: str) -> dict[str, str]:
    return {"code": code, "sub_code": sub_code}


def _domain(*words: str) -> dict[str, str]:
    names = ("domain", "domain_code", "family", "family_code", "sub_family", "sub_family_code")
    return dict(zip(names, words, strict=True))


_CARD = _domain("Payments", "PMNT", "Customer Card Transactions", "CCRD", "Point-of-Sale", "POSD")
_CARD_BACK = _domain("Payments", "PMNT", "Merchant Card Transactions", "MCRD", "Refund", "RIMB")
_CASH = _domain("Payments", "PMNT", "Customer Card Transactions", "CCRD", "Cash Withdrawal", "CWDL")
_RECEIVED = _domain(
    "Payments", "PMNT", "Received Credit Transfers", "RCDT", "ACH Transaction", "ATXN"
)
_ISSUED = _domain("Payments", "PMNT", "Issued Credit Transfers", "ICDT", "ACH Transaction", "ATXN")
_OWN = _domain("Payments", "PMNT", "Issued Credit Transfers", "ICDT", "Internal Book", "BOOK")
_OWN_IN = _domain("Payments", "PMNT", "Received Credit Transfers", "RCDT", "Internal Book", "BOOK")
_DEBIT = _domain("Payments", "PMNT", "Issued Direct Debits", "IDDT", "Direct Debit", "PMDD")
_FEE = _domain("Account Management", "ACMT", "Miscellaneous Debit", "MDOP", "Charges", "CHRG")
_PROFIT = _domain("Account Management", "ACMT", "Miscellaneous Credit", "MCOP", "Interest", "INTR")
_POS = _code("Customer Card Transactions", "Point-of-Sale")
_SENT = _code("Issued Credit Transfers", "ACH Transaction")
_CREDITED = _code("Received Real-Time Credit Transfers", "ACH Credit")
_BOOK = _code("Issued Credit Transfers", "Internal Book Transfer")
_BOOK_IN = _code("Received Credit Transfers", "Internal Book Transfer")
_CHARGE = _code("Miscellaneous Debit Operations", "Charges")

FLOWS: dict[str, Flow] = {
    "pos": Flow(
        "POS", "PURCHASE", _POS, _CARD, "RETAIL", "POS", "شراء عبر نقاط البيع", "MADA", "POSP",
        card=True,
    ),
    "online": Flow(
        "E_COMMERCE", "PURCHASE", _code("Customer Card Transactions", "E-Commerce"), _CARD,
        "RETAIL", "ECOM", "شراء عبر الإنترنت", "MADA", "ECOM", mode="ONLINE", card=True,
    ),
    "foreign": Flow(
        "E_COMMERCE", "PURCHASE", _code("Customer Card Transactions", "Cross-Border"), _CARD,
        "TRAVEL", "INTL PURCHASE", "شراء دولي", "VISA", "XBRD", mode="ONLINE", card=True,
    ),
    "refund": Flow(
        "POS", "REFUND", _code("Merchant Card Transactions", "Refund"), _CARD_BACK, "RETAIL",
        "REFUND", "استرداد مبلغ", "MADA", "RFND", card=True,
    ),
    "reversal": Flow(
        "POS", "REVERSAL", _code("Customer Card Transactions", "Reversal"), _CARD_BACK, "RETAIL",
        "REVERSAL", "عكس عملية", "MADA", "RVSL", card=True,
    ),
    "atm": Flow(
        "ATM", "WITHDRAWAL", _code("Counter Transactions", "Cash Withdrawal"), _CASH, "OTHER",
        "ATM CASH WITHDRAWAL", "سحب نقدي", "MADA", "ATMW", card=True,
    ),
    "cash_in": Flow(
        "ATM", "DEPOSIT", _code("Counter Transactions", "Cash Deposit"), _RECEIVED, "OTHER",
        "CASH DEPOSIT", "إيداع نقدي", "CDM", "CDEP",
    ),
    "salary": Flow(
        "LOCAL_BANK_TRANSFER", "DEPOSIT", _CREDITED, _RECEIVED, "SALARY_AND_REVENUE", "SALARY",
        "راتب", "SARIE", "SALA", flags=("PAYROLL",), mode="BATCH",
    ),
    "rent": Flow(
        "LOCAL_BANK_TRANSFER", "MONEY_TRANSFER", _SENT, _ISSUED, "RENT_AND_SERVICES", "RENT",
        "إيجار", "SARIE", "STOR", flags=("STANDING_ORDER",), mode="ONLINE",
    ),
    "bill": Flow(
        "BILL_PAYMENTS", "PURCHASE", _code("Payments", "Bill Payment"), _ISSUED,
        "RENT_AND_SERVICES", "SADAD BILL PAYMENT", "سداد فاتورة", "SADAD", "BILL", mode="ONLINE",
    ),
    "loan": Flow(
        "OTHER", "REPAYMENTS", _code("Issued Direct Debits", "Direct Debit"), _DEBIT,
        "LOANS_AND_INVESTMENT", "CAR FINANCE INSTALMENT", "قسط تمويل سيارة", "DD", "LOAN",
        flags=("DIRECT_DEBIT", "LOAN"), mode="BATCH",
    ),
    "sent": Flow(
        "LOCAL_BANK_TRANSFER", "MONEY_TRANSFER", _SENT, _ISSUED, "TRANSFER", "TRANSFER TO",
        "حوالة صادرة إلى", "SARIE", "XFRO", mode="ONLINE",
    ),
    "received": Flow(
        "LOCAL_BANK_TRANSFER", "DEPOSIT", _CREDITED, _RECEIVED, "TRANSFER", "TRANSFER FROM",
        "حوالة واردة من", "SARIE", "XFRI", mode="ONLINE",
    ),
    "abroad": Flow(
        "INTERNATIONAL_TRANSFER", "MONEY_TRANSFER",
        _code("Issued Credit Transfers", "Cross-Border Credit Transfer"), _ISSUED, "TRANSFER",
        "INTL TRANSFER TO", "حوالة دولية إلى", "SWIFT", "XBCT", mode="ONLINE",
    ),
    "own_out": Flow(
        "SAME_BANK_TRANSFER", "MONEY_TRANSFER", _BOOK, _OWN, "TRANSFER",
        "TRANSFER BETWEEN OWN ACCOUNTS", "تحويل بين حساباتي", "OWN", "OWNA", mode="ONLINE",
    ),
    "own_in": Flow(
        "SAME_BANK_TRANSFER", "MONEY_TRANSFER", _BOOK_IN, _OWN_IN, "TRANSFER",
        "TRANSFER BETWEEN OWN ACCOUNTS", "تحويل بين حساباتي", "OWN", "OWNA", mode="ONLINE",
    ),
    "fee": Flow(
        "OTHER", "FEE", _CHARGE, _FEE, "BANK_FEES_AND_CHARGES", "TRANSFER FEE INCL VAT",
        "رسوم حوالة شاملة الضريبة", "FEE", "FEES", mode="BATCH",
    ),
    "monthly_fee": Flow(
        "OTHER", "CHARGES", _CHARGE, _FEE, "BANK_FEES_AND_CHARGES", "ACCOUNT FEE INCL VAT",
        "رسوم الحساب شاملة الضريبة", "FEE", "FEEM", mode="BATCH",
    ),
    "profit": Flow(
        "OTHER", "PROFIT", _code("Miscellaneous Credit Operations", "Interest"), _PROFIT,
        "LOANS_AND_INVESTMENT", "PROFIT DISTRIBUTION", "توزيع أرباح", "PRFT", "PRFT",
        flags=("DIVIDEND",), mode="BATCH",
    ),
    "cashback": Flow(
        "OTHER", "REWARDS", _code("Miscellaneous Credit Operations", "Reward"), _PROFIT,
        "OTHER", "CASHBACK", "استرداد نقدي", "RWRD", "CSHB", flags=("CASHBACK",), mode="BATCH",
    ),
    "settlement": Flow(
        "POS", "DEPOSIT", _code("Merchant Card Transactions", "Point-of-Sale"), _RECEIVED,
        "SALARY_AND_REVENUE", "POS SETTLEMENT", "تسوية نقاط البيع", "MADA", "STTL", mode="BATCH",
    ),
    "payroll": Flow(
        "LOCAL_BANK_TRANSFER", "MONEY_TRANSFER", _SENT, _ISSUED, "SALARY_AND_REVENUE",
        "PAYROLL BATCH", "مسير الرواتب", "SARIE", "PAYR", flags=("PAYROLL",), mode="BATCH",
    ),
    "tax": Flow(
        "BILL_PAYMENTS", "TAX", _code("Payments", "Tax Payment"), _ISSUED, "GOVERNMENT",
        "VAT RETURN", "سداد ضريبة القيمة المضافة", "SADAD", "TAXP", mode="ONLINE",
    ),
    "unsupported": Flow(
        "UNSUPPORTED", "UNSUPPORTED", _code("Not Available", "Not Available"), _ISSUED, "OTHER",
        "MISC", "عملية أخرى", "MISC", "MISC", flags=("LOYALTY_POINTS",), mode="UNSUPPORTED",
    ),
    "never_seen": Flow(
        "WALLET_TRANSFER", "GIFT", _code("Wallet Transactions", "Gift"), _ISSUED, "TRANSFER",
        "EID GIFT", "عيدية", "WLT", "GIFT", mode="NEAR_FIELD",
    ),
}  # fmt: skip
"""All kinds of movements by their short names."""

_Shop = tuple[str, str, str, int, int]

_HOME: dict[tuple[str, str], tuple[_Shop, ...]] = {
    ("CC5411", "GROCERIES"): (
        ("ASWAQ AL WAHA", "أسواق الواحة", "RIYADH", 2_500, 42_000),
        ("BAQALAT AL HAYY", "بقالة الحي", "RIYADH", 300, 6_000),
        ("NAJD HYPERMARKET", "نجد هايبر", "JEDDAH", 5_000, 60_000),
    ),
    ("CC5462", "GROCERIES"): (("MAKHBAZ AL BALAD", "مخبز البلد", "RIYADH", 300, 4_500),),
    ("CC5814", "RESTAURANTS_DINING"): (
        ("QAHWAT AL SABAH", "قهوة الصباح", "RIYADH", 900, 4_800),
        ("SHAWARMA HOUSE", "بيت الشاورما", "RIYADH", 1_200, 9_500),
    ),
    ("CC5812", "RESTAURANTS_DINING"): (
        ("KABSA PALACE", "قصر الكبسة", "DAMMAM", 4_000, 38_000),
        ("BAHAR SEAFOOD", "مأكولات بحار", "JEDDAH", 6_000, 45_000),
    ),
    ("CC5541", "TRANSPORT"): (
        ("KHALED ALGHAMDI STATION", "محطة خالد الغامدي", "RIYADH", 3_000, 18_000),
        ("SAHEL FUEL", "محطات ساهل", "MADINAH", 2_500, 16_000),
    ),
    ("CC4121", "TRANSPORT"): (("MISHWAR RIDES", "مشوار", "RIYADH", 1_200, 9_000),),
    ("CC5532", "TRANSPORT"): (("TUWAIQ TYRES", "إطارات طويق", "RIYADH", 15_000, 140_000),),
    ("CC5912", "HEALTH_AND_WELLBEING"): (
        ("SAYDALIYAT AL SHIFA", "صيدلية الشفاء", "RIYADH", 1_500, 24_000),
    ),
    ("CC8021", "HEALTH_AND_WELLBEING"): (
        ("RAWDAH DENTAL", "عيادات الروضة للأسنان", "JEDDAH", 15_000, 180_000),
    ),
    ("CC7997", "HEALTH_AND_WELLBEING"): (("QIMMA GYM", "نادي القمة", "RIYADH", 19_900, 89_900),),
    ("CC5942", "EDUCATION"): (("MAKTABAT AL MADINAH", "مكتبة المدينة", "RIYADH", 1_500, 32_000),),
    ("CC8211", "EDUCATION"): (("DIWAN SCHOOLS", "مدارس الديوان", "RIYADH", 120_000, 900_000),),
    ("CC5651", "RETAIL"): (("AZYAA FASHION", "أزياء", "RIYADH PARK", 6_000, 90_000),),
    ("CC5977", "RETAIL"): (("DAR AL OUD", "دار العود", "MAKKAH", 9_000, 120_000),),
    ("CC5732", "RETAIL"): (
        ("TAQNIYA ELECTRONICS", "تقنية للإلكترونيات", "RIYADH", 5_000, 480_000),
    ),
    ("CC5712", "RETAIL"): (("BAYT FURNITURE", "أثاث البيت", "DAMMAM", 12_000, 350_000),),
    ("CC7832", "ENTERTAINMENT"): (("CINEMA NUJOOM", "سينما نجوم", "RIYADH", 4_500, 21_000),),
    ("CC7996", "ENTERTAINMENT"): (("MADINAT AL ALAAB", "مدينة الألعاب", "JEDDAH", 5_000, 40_000),),
    ("CC8398", "CHARITY"): (("JAMIYAT AL BIRR", "جمعية البر", "RIYADH", 1_000, 50_000),),
    ("CC9399", "GOVERNMENT"): (("ABSHER SERVICES", "خدمات أبشر", "RIYADH", 10_000, 60_000),),
    ("CC7211", "RENT_AND_SERVICES"): (("MAGHSALAT AL NOUR", "مغسلة النور", "RIYADH", 900, 9_500),),
}

_AWAY: dict[tuple[str, str, str], _Shop] = {
    ("CC5734", "RETAIL", "EUR"): ("CLOUDBOX STORAGE", "كلاود بوكس", "DUBLIN", 299, 2_999),
    ("CC4511", "TRAVEL", "AED"): ("AIR LEVANT", "طيران الشام", "DUBAI", 20_000, 180_000),
    ("CC7011", "TRAVEL", "GBP"): ("HARBOUR HOTEL", "فندق المرفأ", "LONDON", 9_000, 60_000),
    ("CC5816", "ENTERTAINMENT", "USD"): ("PIXEL GAMES", "بكسل", "SEATTLE", 499, 6_999),
    ("CC5942", "EDUCATION", "JPY"): ("TOKYO BOOKS", "كتب طوكيو", "TOKYO", 800, 12_000),
}

MERCHANTS: tuple[Merchant, ...] = tuple(
    Merchant(name, arabic, code, category, place, low, high, 20_010_045 + number)
    for number, (code, category, (name, arabic, place, low, high)) in enumerate(
        (code, category, shop) for (code, category), shops in _HOME.items() for shop in shops
    )
)
"""Shops in Saudi Arabia."""

ABROAD: tuple[Merchant, ...] = tuple(
    Merchant(name, arabic, code, category, place, low, high, 30_010_001 + number, currency)
    for number, ((code, category, currency), (name, arabic, place, low, high)) in enumerate(
        _AWAY.items()
    )
)
"""Shops that charge in their own currency; their amounts are in its minor units."""

BILLERS: tuple[Biller, ...] = (
    Biller("SAUDI ELECTRICITY", "الكهرباء", 2, "POST_PAID", 9_000, 70_000),
    Biller("NATIONAL WATER", "المياه الوطنية", 16, "POST_PAID", 2_500, 22_000),
    Biller("RIYAH TELECOM", "رياح للاتصالات", 5, "RECURRING_PAYMENT", 11_500, 34_500),
    Biller("NET FIBRE", "نت فايبر", 44, "RECURRING_PAYMENT", 23_000, 34_500),
    Biller("TRAFFIC DEPARTMENT", "المرور", 93, "ONE_OFF", 10_000, 50_000),
    Biller("PREPAID MOBILE", "شحن الجوال", 9, "RECHARGE", 2_000, 11_500),
)
"""Firms paid through SADAD."""


def describe(flow: Flow, party: Any, draw: int) -> str:
    """The bank's raw text of a movement: English, Arabic or both, decided by the draw."""
    english, arabic = flow.english, flow.arabic
    name = party.name if party is not None else ""
    language = draw % 4
    if isinstance(party, Merchant):
        if language == 0:
            return f"{arabic} {party.arabic}"
        if language == 1:
            return f"{english} شراء {name} {party.place}"
        return f"{english} {name} {party.place}"
    if language == 0 and party is not None:
        return f"{arabic} {party.arabic}".rstrip()
    if language == 1:
        return f"{english} {name} - {arabic}" if name else f"{english} - {arabic}"
    return f"{english} {name}".rstrip()
