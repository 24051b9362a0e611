"""Tags that do not name a thing that could be taken out of an image.

Chosen from RAM's tags by the boxes that detectors give for them: places and scenes, things without
an outline, qualities and colours, weather and times, kinds of image, actions of people.
"""

from __future__ import annotations

_PLACES = """
alley | backyard | basement | bathroom | beach | bedroom | building facade | campsite | city
city park | city skyline | city square | city street | city view | classroom | coast
conference hall | corridor | countryside | court | courtyard | crossroad | dining room
downtown | farm | farmland | field | forest | garden | hall | hallway | harbor | highway | hill
hillside | home interior | house exterior | intersection | island | kitchen | lake | lakeshore
landscape | living room | lobby | mall | market | meadow | meeting room | mountain
mountain range | mountain view | nature | neighbourhood | office | park | parking lot | pasture
path | patio | playground | plaza | restaurant | river | road | roadside | room | scene
scenery | sea view | shore | shoreline | skyline | slope | stadium | street | street corner
street scene | suburb | tennis court | town | valley | village | wetland | woodland | yard
zoo
"""

_WITHOUT_LIMITS = """
air | asphalt road | backdrop | background | blue sky | brick | ceiling | cloud | concrete
dirt | dust | earth | fabric | floor | foam | fog | fur | glass wall | grass | grassland
gravel | greenery | ground | hair | hardwood floor | horizon | ice | land | lawn | leather
metal | mist | mud | ocean | pavement | plain | plastic | reflection | rock face | sand | sea
shadow | sidewalk | skin | sky | smoke | snow | soil | steam | stone | stream | sunlight
sunshine | surface | tarmac | terrain | tile flooring | tile wall | vegetation | wall | water
water surface | wave | wood | wood floor | wood wall
"""

_QUALITIES = """
beautiful | beige | black | blue | bright | brown | calm | clear | cloudy | cold | color
colorful | copper | crowded | dark | darkness | design | foggy | gold | grassy | gray | green
group | indoor | modern | monochrome | object | open | outdoor | pattern | pink | purple
rainy | red | rocky | round | rural | rustic | silver | snowy | square | stripe | sunny | tan
texture | thing | wet | white | wild | windy | yellow
"""

_TIMES = """
autumn | dawn | daylight | dusk | evening | morning | night | night view | season | spring
storm | summer | sunrise | sunset | twilight | weather | winter
"""

_IMAGES = """
art | artwork | close-up | collage | illustration | image | photo | photography | picture
portrait | screenshot | selfie | still life | text
"""

_ACTIONS = """
attach | balance | bend | carry | catch | celebrate | chase | cheer | climb | cook | cut
dance | dive | drive | eat | fill | float | fly | game | gather | graze | hang | hold | hug
jump | kick | kneel | laugh | lay | lead to | lean | lie | lift | line up | look | move
perform | play | play baseball | play football | play tennis | pose | pour | pull | push | race
read | relax | ride | run | sell | serve | shake | shine | show | sing | sit | sitting | skate
sleep | smile | splash | spread | squat | stand | standing | stare | stretch | surf | surround
swim | take | talk | throw | touch | travel | turn | use | walk | walking | wash | wear | write
"""

SCENE_TAGS: tuple[str, ...] = tuple(
    name.strip()
    for group in (_PLACES, _WITHOUT_LIMITS, _QUALITIES, _TIMES, _IMAGES, _ACTIONS)
    for line in group.strip().splitlines()
    for name in line.split("|")
)
"""The default of `Tagger.stop`."""
