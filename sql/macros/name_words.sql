-- Words that identify a name, each once, in a form for matching. The article and the words for son
-- of and daughter of are left out, because banks write them or not. The words for servant of and
-- father of are joined to the next word, because banks separate them or not. Empty for null.
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
