-- Words of a name that tell people apart, each once, in a form for matching: without the article
-- and without son and daughter of, which banks write or leave out at will, and with servant of and
-- father of joined to the word behind, from which they are parted at will. None for null.
create or replace macro name_words(input) as
list_sort(list_distinct(list_filter(
    string_split(
        regexp_replace(
            regexp_replace(
                coalesce(matchable(input), ''), '[^A-Z0-9\x{0621}-\x{064A}]+', ' ', 'g'
            ),
            '(^| )(ABD|ABU|عبد|ابو) ', '\1\2', 'g'
        ),
        ' '
    ),
    lambda word: word not in ('', 'AL', 'EL', 'BIN', 'IBN', 'BINT', 'ال', 'بن', 'ابن', 'بنت')
)));
