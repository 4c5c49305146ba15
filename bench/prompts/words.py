"""Common English words, most of them one token in every large vocabulary."""

from __future__ import annotations

_TEXT = """
able about above across act action add after again against age ago air all almost alone along
already also always am among amount an and animal another answer any anything appear apple are
area arm around art as ask at away baby back bad ball bank bar base be bear beat beautiful
because become bed been before began begin behind being believe below best better between big
bird black blood blue board boat body book both box boy break bring brother brought brown
build building built business but buy by call came can car care carry case cat catch cause
cell center certain chair chance change character check child children choose circle city
class clean clear clock close cloud coast cold color come common company complete contain
control cook cool copy corn corner cost could count country course cover create cross cry cut
dance dark day dead deal dear decide deep desk die difference different dinner direct do
doctor does dog dollar done door down draw dream dress drink drive drop dry during each ear
early earth ease east eat edge effect egg eight either end enemy energy engine enough enter
even evening event ever every example eye face fact fair fall family far farm fast father
favor fear feed feel feet fell felt few field fight figure fill final find fine finger finish
fire first fish fit five flat floor flow flower fly follow food foot for force foreign forest
form forward found four free fresh friend from front fruit full game garden gas gave general
gentle get girl give glass go gold good got govern grand grass gray great green grew ground
group grow guess guide gun had hair half hand happen happy hard has hat have he head hear
heart heat heavy held help her here high hill him his history hit hold hole home hope horse
hot hotel hour house how human hundred hunt ice idea if in inch include industry iron island
it job join joy jump just keep key kill kind king knew know lady lake land language large last
late laugh law lay lead learn least leave led left leg less let letter level life lift light
like line list listen little live long look lost lot loud love low machine made main make man
many map mark market mass master matter may me mean measure meat meet men metal method middle
might mile milk mind minute miss modern moment money month moon more morning most mother
mountain mouth move much music must my name nation nature near neck need never new next night
nine no noise north nose not note nothing notice now number object ocean of off office often
oil old on once one only open operate or order other our out over own page paint pair paper
parent part party pass past path pay people perhaps period person picture piece place plain
plan plane plant play please point poor position possible post pound power practice present
press pretty print problem produce product proper prove pull push put question quick quiet
quite race rain ran reach read ready real reason record red region remember rest result rich
ride right ring rise river road rock roll room root rope rose round row rule run safe said
sail salt same sand sat save saw say school science sea season seat second section see seed
seem sell send sense sent sentence separate set seven several shape share sharp she ship shoe
shop short should shoulder show side sign silver similar simple since sing single sister sit
six size skin sky sleep slow small smell smile snow so soft soil soldier some son song soon
sound south space speak special speed spell spend spoke spot spread spring square stand star
start state station stay steel step stick still stone stood stop store story straight strange
stream street strong student study subject such sudden sugar suit summer sun supply support
sure surface surprise swim system table tail take talk tall taste teach team tell ten test
than thank that the their them then there these they thick thin thing think third this those
though thought thousand three through time tiny tire to together told tone too took tool top
total touch toward town track trade train travel tree triangle trip true try turn twenty two
type under unit until up us use usual valley value very view village visit voice wait walk
wall want war warm was wash watch water wave way we wear weather week weight well went were
west what wheel when where which while white who whole why wide wife wild will win wind window
wing winter wire wish with woman wonder wood word work world would write wrong yard year
yellow yes yet you young your
"""

WORDS: tuple[str, ...] = tuple(_TEXT.split())
