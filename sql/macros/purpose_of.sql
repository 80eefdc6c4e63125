-- What a movement is for, by the words in its bank's text and its merchant's name, in English and
-- Arabic: salary, pension, support (from the state), rent, instalment or bnpl (buy now, pay later).
-- Null where no such word is found. An English word counts only as a whole word. Most texts hold no
-- such word, so a single search comes before the search for each of them.
create or replace macro purpose_of(input) as
case
    when
        not regexp_matches(
            input,
            '(?i)\b(TABBY|TAMARA|BNPL|CITIZEN ACCOUNT|HAFIZ|PENSION|SALARY|PAYROLL|WAGES?|RENT'
            || '|INSTALL?MENT|REPAYMENT|FINANCE|EJAR)\b|تابي|تمارا|حساب المواطن|حافز|ضمان اجتماعي'
            || '|معاش|تقاعد|راتب|رواتب|قسط|أقساط|تمويل|إيجار|ايجار'
        )
        then null
    when regexp_matches(input, '(?i)\b(TABBY|TAMARA|BNPL)\b|تابي|تمارا') then 'bnpl'
    when
        regexp_matches(input, '(?i)\bCITIZEN ACCOUNT\b|\bHAFIZ\b|حساب المواطن|حافز|ضمان اجتماعي')
        then 'support'
    when regexp_matches(input, '(?i)\bPENSION\b|معاش|تقاعد') then 'pension'
    when regexp_matches(input, '(?i)\b(SALARY|PAYROLL|WAGES?)\b|راتب|رواتب') then 'salary'
    when
        regexp_matches(input, '(?i)\b(INSTALL?MENT|REPAYMENT|FINANCE)\b|قسط|أقساط|تمويل')
        then 'instalment'
    when regexp_matches(input, '(?i)\b(RENT|EJAR)\b|إيجار|ايجار') then 'rent'
end;
